"""Who is treated conservatively: fills `Batch.conserve`; `registry` names the rules."""
