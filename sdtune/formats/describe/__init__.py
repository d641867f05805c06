"""What `sdtune inspect` tells about a file: one document of plain values, and its lines for people."""
