"""Makes `python -m streamguard_cli` the same as `streamguard`."""

from streamguard_cli.app import main

if __name__ == "__main__":
    main()
