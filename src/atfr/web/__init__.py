"""A page in the browser: drop a video, see what a network makes of it, and what fewer bins change.

`network` and `uploads` know nothing of Gradio, `result` makes HTML of an explanation, `page` puts it together, `serve`
lets it out, to this machine alone.
"""
