"""Hypernetworks: small networks before the keys and values of attention, as webui has them."""
