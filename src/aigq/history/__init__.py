"""Tables -> what a model reads: sessions, surrogates, behaviours, prompts."""
