"""The WAN between regions: one user-space TCP relay that delays, narrows, cuts and black-holes."""
