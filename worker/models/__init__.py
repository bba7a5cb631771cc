"""A model's folder or hub id: its weights, its image processor, and the card that describes it to the API."""
