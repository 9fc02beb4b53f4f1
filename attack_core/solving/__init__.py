"""What the attacks by linear equations compute, from what was seen of images to the images."""
