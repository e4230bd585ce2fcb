"""FlexVAR: next-scale prediction over any list of scales."""
