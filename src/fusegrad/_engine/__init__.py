"""Private modules: validation, plan, threads, moments, instruction sets, files.

They use the shapes of layers and networks, not their classes.
"""
