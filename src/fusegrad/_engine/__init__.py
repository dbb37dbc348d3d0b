"""What users never import: validation, plan, threads, moments, instruction sets, files.

Nothing here knows of layers or networks, but their shapes.
"""
