"""From logits to tokens: logit rules, grammars, sampling, and drafts."""
