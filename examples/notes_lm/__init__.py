"""An example: patients are forgotten by a language model of notes."""
