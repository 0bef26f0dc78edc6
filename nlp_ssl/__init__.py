"""nlp_ssl: from raw text to a published Hugging Face language model."""
