"""Other programs as readers of our files: each module is a second implementation of one program's loading code.

They are written from what those programs do, not from what sdtune writes, and share no table with it: so that a file
which one of them reads wrongly is found here, and not in a webui.
"""
