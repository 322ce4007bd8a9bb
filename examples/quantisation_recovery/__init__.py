"""An example: does rounding an unlearned language model bring back what it had forgotten?"""
