"""TensorRT engines: the acceptance gate, the recipe of an engine, and building on a GPU host."""
