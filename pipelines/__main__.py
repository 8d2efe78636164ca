"""Where the command begins. What it imports takes a second or more, in which a Ctrl-C is an end as any other."""

import sys


def main() -> None:
    try:
        from pipelines import cli

        cli.main()
    except KeyboardInterrupt:
        print("\nstopped", file=sys.stderr)
        sys.exit(130)  # `help_page.INTERRUPTED`, which may not be there yet
    except MemoryError:
        print(
            "error: no memory is left for this. Raise its limit (ulimit -v, or that of the job), or call it where there is more; "
            "nothing committed is lost",
            file=sys.stderr,
        )
        sys.exit(1)


if __name__ == "__main__":
    main()
