"""A trained model for others: a worker that batches what is asked of it, a server that speaks as OpenAI's does, and a
page to look at runs and play with them."""
