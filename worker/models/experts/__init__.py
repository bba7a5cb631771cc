"""The routed experts of sparse models while they are loaded: found in the files, packed once, mapped from then on."""
