"""What requests one after another did to each part of the forget set, and to what is kept: scores, tables, a plot."""
