"""Images: data sets on disk, how they are split over clients, and transforms that can be inverted."""
