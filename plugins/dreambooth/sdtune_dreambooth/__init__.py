"""DreamBooth: the whole UNet, and if wanted the text encoder, learns a subject."""
