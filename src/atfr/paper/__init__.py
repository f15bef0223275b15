"""The paper's own GFLOPs beside ours, and costs by the share of maps that a clip keeps."""
