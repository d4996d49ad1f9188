"""What a chunk costs: ratios within one run, printed beside the bars they have to meet."""
