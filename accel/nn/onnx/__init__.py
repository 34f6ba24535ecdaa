"""ONNX graphs run on our own kernels: operators, fusions, and the plan that calls them."""
