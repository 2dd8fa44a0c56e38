//! Labelled images, augmentation and batches for training convolutional networks
