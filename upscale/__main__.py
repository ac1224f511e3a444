"""`python -m upscale` is `diffsr`."""

from upscale.cli.main import main

if __name__ == "__main__":
    main()
