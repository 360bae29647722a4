"""What `pipeline inspect` draws: one image, two images, a whole data set. TensorFlow is not loaded."""
