"""Tests of crfs; `unit` needs no device, the other folders say what they need."""
