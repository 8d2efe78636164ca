"""What stands in a raylet's commands in place of a new interpreter: it has the zygote fork the process instead.

python forked.py […] SCRIPT.py ARGUMENTS…     (standard library only: it must start quickly)

A worker's raylet waits for it to register, whoever started it, so this process ends at once. Of its agents it wants to hold the
process: there this one stays as long as the agent does.
"""

import array
import json
import os
import select
import signal
import socket
import sys


def main() -> None:
    arguments = sys.argv[1:]
    script = next(i for i, text in enumerate(arguments) if text.endswith(".py"))
    run = arguments[script]
    kept = [text for text in arguments[script + 1 :] if not text.startswith(("--language", "--serialized-runtime-env-context"))]
    request = {"run": run, "argv": [run, *kept], "environ": dict(os.environ), "cwd": os.getcwd()}
    data = json.dumps(request).encode() + b"\n"
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(os.environ["FINELOOM_ZYGOTE"])
        sent = client.sendmsg([data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [0, 1, 2]))])
        client.sendall(data[sent:])
        pid = int(client.makefile().readline())
    if os.path.basename(run) != "default_worker.py":
        agent = os.pidfd_open(pid)
        signal.signal(signal.SIGTERM, lambda *_: signal.pidfd_send_signal(agent, signal.SIGTERM))
        select.select([agent], [], [])


if __name__ == "__main__":
    main()
