"""`tallystick`, except that it kills itself at points of the protocol that a test has ordered.

Run in place of `-m tallystick`. The environment names a folder; the file of this process in it holds orders such as
`after contribute 3`, one a line: SIGKILL between writing and sending, where a crash does most harm. Orders are
carried out in turn, each once, and each leaves its time in `<name>.died`. Without orders this is the program itself.
"""

import functools
import os
import signal
import sys
import time
from pathlib import Path

ORDERS_ENVIRONMENT = "TALLYSTICK_TEST_ORDERS"


class Orders:
    """What this process has been ordered to die of."""

    def __init__(self, folder, name):
        self._orders = Path(folder) / name
        self._died = Path(folder) / f"{name}.died"

    def reach(self, point):
        orders = self._orders.read_text().splitlines() if self._orders.exists() else []
        if orders[:1] == [point]:
            self._orders.write_text("\n".join(orders[1:]))
            with self._died.open("a") as note:
                note.write(f"{time.time()}\n")
            os.kill(os.getpid(), signal.SIGKILL)

    def watch(self, owner, method, point_of):
        """Make every call of a method a point before it and a point after it."""
        original = getattr(owner, method)

        @functools.wraps(original)
        def watched(self_, *arguments, **options):
            point = point_of(*arguments)
            self.reach(f"before {point}")
            outcome = original(self_, *arguments, **options)
            self.reach(f"after {point}")
            return outcome

        setattr(owner, method, watched)


def make_node_mortal(orders):
    from nodes.runtime import NodeRuntime  # noqa: PLC0415 - a process loads one side
    from protos.runs.v1 import runs_pb2, vertical_pb2  # noqa: PLC0415

    numbered = {
        "contribute": runs_pb2.ContributeRequest,
        "seeds": runs_pb2.SeedsRequest,
        "shares": runs_pb2.SharesRequest,
    }

    def point_of(action, body):
        if action == "vertical":
            return f"vertical {vertical_pb2.VerticalStepRequest.FromString(body).number}"
        return f"{action} {numbered[action].FromString(body).k}" if action in numbered else action

    orders.watch(NodeRuntime, "handle", point_of)


def make_coordinator_mortal(orders):
    import coordinator.worker  # noqa: PLC0415
    from coordinator.driver import RunDriver  # noqa: PLC0415
    from coordinator.store import CoordinatorStore  # noqa: PLC0415

    orders.watch(CoordinatorStore, "set_proposal", lambda *_: "set_proposal")
    orders.watch(CoordinatorStore, "set_epoch", lambda *_: "set_epoch")
    orders.watch(CoordinatorStore, "fix_survivors", lambda _, k, *__: f"fix_survivors {k}")
    orders.watch(CoordinatorStore, "finish_sum", lambda _, k, *__: f"finish_sum {k}")
    orders.watch(RunDriver, "finish", lambda *_: "finish")
    orders.watch(CoordinatorStore, "close_run", lambda *_, **__: "close_run")
    orders.watch(coordinator.worker.Registry, "__init__", lambda *_: "evidence")


if __name__ == "__main__":
    from tallystick.__main__ import main

    side = sys.argv[1]
    # The supervisor itself lives; only what it starts is mortal.
    if sys.argv[2:3] == ["run"] and "--restart" not in sys.argv:
        name = Path(sys.argv[sys.argv.index("--settings") + 1]).parent.name
        folder = os.environ[ORDERS_ENVIRONMENT]
        {"node": make_node_mortal, "coordinator": make_coordinator_mortal}[side](Orders(folder, name))
    sys.exit(main())
