"""The worked example: Keras's CNN-LSTM on IMDB movie reviews. Replace this package by your own."""
