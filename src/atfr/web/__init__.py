"""A page in the browser: drop a video, see what a network makes of it, and what fewer bins change.

`network`, `uploads` and `reading` know nothing of Gradio, `result` makes HTML of an explanation, and `page` puts it
together. Gradio stands `behind` a `gate`, which lets in what `visitors` may ask and what `calls` they may make; `serve`
lets it out, to this machine alone.
"""
