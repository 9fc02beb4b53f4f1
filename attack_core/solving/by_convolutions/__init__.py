"""The attack on convolutional networks: images from what deep convolutions see of them, read off their gradients."""
