"""Where the rows of a batch come from; `registry` names the rules."""
