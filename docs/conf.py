"""The site: `make docs` builds it into build/docs, with warnings as errors and without network."""

import fusegrad

project, author, copyright = "fusegrad", "the fusegrad developers", "the fusegrad developers"
version = release = fusegrad.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.mathjax",
    "sphinx-mathjax-offline",  # equations are shown without network, too
    "numpydoc",
    "sphinx_gallery.gen_gallery",
]
exclude_patterns = ["lessons"]  # the gallery's source
templates_path = ["templates"]
myst_enable_extensions = ["dollarmath", "colon_fence"]
myst_heading_anchors = 3
numpydoc_show_class_members = False  # templates/autosummary/class.rst lists them
autodoc_typehints = "none"  # the docstring has them

sphinx_gallery_conf = {
    "examples_dirs": "lessons",
    "gallery_dirs": "gallery",
    "filename_pattern": "/(plot_|exercises)",  # all of them run
    "within_subsection_order": "ExampleTitleSortKey",
    "abort_on_example_error": True,
    "capture_repr": (),
    "matplotlib_animations": True,
    "download_all_examples": False,
    "show_memory": False,
    "min_reported_time": 1e9,
    "first_notebook_cell": '# pip install "fusegrad[notebooks]"\n%matplotlib inline',
}

html_theme = "pydata_sphinx_theme"
html_title = "fusegrad"
html_theme_options = {
    "show_prev_next": True,
    "navigation_with_keys": False,
    "secondary_sidebar_items": ["page-toc"],
    "footer_start": ["copyright"],
    "footer_end": [],
}
html_sidebars = {"index": []}
html_copy_source = False
html_show_sourcelink = False
