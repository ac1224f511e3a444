"""The two-alternative forced-choice study of SR3 (section 4.5.3): build, serve, report."""
