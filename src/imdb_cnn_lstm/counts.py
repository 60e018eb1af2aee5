"""The reviews as bags of words, for a forest."""

from .data import load_reviews
from .forest import as_counts

load_review_counts = as_counts(load_reviews)
