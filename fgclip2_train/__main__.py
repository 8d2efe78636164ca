"""Where `python -m fgclip2_train` begins. Until its imports are done a Ctrl-C is an end as any other."""

import sys


def main() -> None:
    try:
        from fgclip2_train import cli

        cli.main()
    except KeyboardInterrupt:
        print("\nstopped", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
