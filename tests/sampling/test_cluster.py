"""A cluster of two nodes on this machine: real schedulers and workers, which tests may kill."""

import contextlib
import dataclasses
import importlib.util
import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from interrupted import descendants, differences, still_running
from scripted_run import config_of, content, go, puzzle_files, same

from puzzles.parse import Text, parse_candidates, parse_puzzles
from puzzles.puzzle import InputError
from puzzles.verify import truth_pool, verify
from sandbox import child
from sandbox.pool import RUN_PROGRAM, Job
from sandbox.result import SandboxError
from selfplay.commands.main import main
from selfplay.config import EvaluateConfig, FinetuneConfig, ModelConfig, ProposeConfig, RayConfig, SolveConfig
from selfplay.experiments import engines
from selfplay.iteration.loop import run
from selfplay.run.progress import Progress
from selfplay.run.rundir import RunDir
from selfplay.sampling import cluster
from selfplay.sampling.cluster import ClusterFailed, RayModel, RayPool, connected
from selfplay.sampling.prompts import propose_prompt
from selfplay.sampling.sampler import SamplingSettings

pytestmark = [
    pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="ray is not installed"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:ray"),
]
STORE_BYTES = 80_000_000
SETTINGS = SamplingSettings(temperature=1.0, top_p=1.0, max_tokens=12, batch_rows=4)


@pytest.fixture(scope="module")
def head():
    """A cluster with one node, and a token without which nobody gets in."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_MODE", "token")
        patch.setenv("RAY_AUTH_TOKEN", secrets.token_hex())
        from ray.cluster_utils import Cluster

        quick = {
            "health_check_initial_delay_ms": 0,
            "health_check_period_ms": 1000,
            "health_check_failure_threshold": 4,
        }
        own = {"num_cpus": 1, "include_dashboard": False, "object_store_memory": STORE_BYTES, "_system_config": quick}
        made = Cluster(initialize_head=True, head_node_args=own)
        yield made
        made.shutdown()


@pytest.fixture
def driver(head):
    with connected(RayConfig(head.address)):
        yield head


@pytest.fixture
def second(driver):
    """The cluster's other node, for one test, which may kill it."""
    node = driver.add_node(num_cpus=1, object_store_memory=STORE_BYTES)
    driver.wait_for_nodes()
    yield node
    if node in driver.worker_nodes:
        driver.remove_node(node)
    gone(node)


@pytest.fixture(scope="module")
def here():
    with truth_pool(lanes=1) as pool:
        yield pool


@pytest.fixture
def made(here):
    """Makes pools on the nodes; what they say is listed."""
    pools, said = [], []

    def make(minimum_tier="B", lanes=0):
        pools.append(RayPool(here, lanes, minimum_tier, said.append))
        return pools[-1]

    make.said = said
    yield make
    for pool in pools:
        pool.close()


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return puzzle_files(tmp_path_factory.mktemp("sets"))


def jobs(count, turns=2000):
    """Programs that take some milliseconds, each with a value of its own."""
    for number in range(count):
        source = f"def g():\n    return sum(i % 7 for i in range({turns} + {number}))"
        yield Job(RUN_PROGRAM, child.program([source], "g", [b"[]"], 1000), label=f"job {number}")


def gone(node):
    """Wait until the cluster knows that it is lost, which takes it a while: until then it is listed as alive."""
    import ray

    deadline = time.monotonic() + 30
    while any(each["Alive"] and each["NodeID"] == node.node_id for each in ray.nodes()):
        assert time.monotonic() < deadline
        time.sleep(0.1)


def kill(head, node):
    """As if its power were cut: the scheduler, and its workers at once, which would otherwise work on for a moment."""
    workers = descendants(node.all_processes["raylet"][0].process.pid)
    head.remove_node(node, allow_graceful=False)
    for worker in workers:
        with contextlib.suppress(ProcessLookupError):
            os.kill(worker, signal.SIGKILL)


# ---- verification ----


def test_results_are_those_of_this_machine_in_the_jobs_order(second, made, here):
    pool = made()
    assert [result.records for result in pool.run(jobs(450))] == [result.records for result in here.run(jobs(450))]
    assert list(pool.run([])) == []
    assert pool.cpu_seconds() > 0


def test_a_node_that_is_killed_loses_nothing_and_nothing_comes_twice(second, driver, made, here):
    pool, found = made(), []
    for result in pool.run(jobs(900, 20_000)):
        found.append(result.records)
        if len(found) == 30:
            kill(driver, second)
    assert found == [result.records for result in here.run(jobs(900, 20_000))]
    assert len(pool._verifiers) == 1
    assert len(list(pool.run(jobs(50)))) == 50


def test_with_no_node_left_it_says_so(driver, second, made):
    pool = made()
    for verifier in [v for v, name in pool._verifiers.items() if second.node_id[:8] not in name]:
        pool._dismiss(verifier)
    results = pool.run(jobs(900, 20_000))
    next(results)
    kill(driver, second)
    with pytest.raises(ClusterFailed, match="the last node that verified is lost"):
        list(results)
    with pytest.raises(ClusterFailed):
        next(pool.run(jobs(1)))


def test_what_a_job_raises_here_it_raises_there(driver, made, here):
    pool = made()
    job = Job(RUN_PROGRAM, b"x" * (child.request_bytes(here.limits) + 1))
    errors = []
    for each in (pool, here):
        with pytest.raises(ValueError, match="exceeds the slot") as caught:
            list(each.run([job]))
        errors.append((type(caught.value), str(caught.value)))
    assert errors[0] == errors[1]
    assert len(list(pool.run(jobs(3)))) == 3


def test_a_failure_of_a_nodes_sandbox_is_ours_and_no_verdict(driver, made, monkeypatch):
    pool = made()
    import ray

    (verifier,) = pool._verifiers
    # Its zygotes are killed under the job, again and again.
    pid = ray.get(verifier.__ray_call__.remote(lambda self: os.getpid()))
    stop = threading.Event()

    def kill_children():
        while not stop.is_set():
            for task in Path(f"/proc/{pid}/task").iterdir():
                for zygote in (task / "children").read_text().split():
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(int(zygote), signal.SIGKILL)
            time.sleep(0.01)

    killer = threading.Thread(target=kill_children)
    killer.start()
    try:
        with pytest.raises(SandboxError, match=r"nothing was decided|did not start"):
            list(pool.run(jobs(1, 20_000_000)))
    finally:
        stop.set()
        killer.join()
    assert len(list(pool.run(jobs(2)))) == 2


@pytest.fixture
def spoiled(driver, tmp_path):
    """Adds a node where something of ours is otherwise."""
    nodes = []

    def add(code):
        (tmp_path / "sitecustomize.py").write_text(code)
        path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
        node = driver.add_node(num_cpus=1, object_store_memory=STORE_BYTES, env_vars={"PYTHONPATH": path})
        nodes.append(node)
        driver.wait_for_nodes()
        return node

    yield add
    for node in nodes:
        driver.remove_node(node)
        gone(node)


WEAK = """
import contextlib
import dataclasses
from sandbox import selfcheck
real = selfcheck.check
selfcheck.check = lambda pool: dataclasses.replace(real(pool), tier="D")
"""
OTHER = """
from selfplay.run import sessions
sessions.source_hash = lambda: "0123456789abcdef"
"""

MISSING = """
import sys
sys.modules["selfplay"] = None
"""
WRONG = [
    (WEAK, "the sandbox reaches tier D"),
    (OTHER, "its version of this package differs"),
    (MISSING, "install it there"),
]


@pytest.mark.parametrize(("code", "why"), WRONG, ids=["weak", "other", "missing"])
def test_a_node_that_is_not_as_it_should_be_gets_no_work_and_is_named(spoiled, made, code, why):
    node = spoiled(code)
    pool = made()
    assert len(pool._verifiers) == 1
    assert not any(node.node_id[:8] in name for name in pool._verifiers.values())
    (line,) = made.said
    assert node.node_id[:8] in line
    assert why in line
    assert pool.protections["tier"] != "D"
    assert len(list(pool.run(jobs(20)))) == 20


def test_the_protections_of_the_weakest_node_that_works_are_recorded(spoiled, made):
    spoiled(WEAK)
    assert made(minimum_tier="D").protections["tier"] == "D"
    assert made.said == []


def test_when_all_nodes_are_below_the_tier_nothing_runs(spoiled, made, monkeypatch):
    spoiled(WEAK)
    real = cluster._nodes
    monkeypatch.setattr(cluster, "_nodes", lambda: [node for node in real() if not is_head(node)])
    with pytest.raises(SandboxError, match=r"gets no work: .*tier D"):
        made()


def is_head(node):
    import ray

    resources = {each["NodeID"]: each["Resources"] for each in ray.nodes()}
    return "node:__internal_head__" in resources[node.id]


def test_a_short_stream_is_spread_over_the_nodes_and_a_long_one_cut_in_hundreds():
    def sizes(count, slots, payload=b""):
        return [len(chunk.jobs) for chunk in cluster._draw(iter([Job("f", payload)] * count), slots)]

    assert sizes(0, 4) == []
    assert sizes(3, 4) == [1, 1, 1]
    assert sizes(10, 4) == [3, 3, 3, 1]
    assert sizes(10_000, 4) == [100, 100, 100, 100]
    assert sum(sizes(100, 2, bytes(1_000_000))) == 9


# ---- runs ----


def test_a_run_writes_the_same_on_two_nodes_and_when_one_is_killed_in_the_middle(
    files, here, driver, second, made, tmp_path
):
    config = config_of(files)
    pool, killed = made(), []

    def counter(total, description, unit):
        def count(done):
            if description == "iteration 2: solve" and not killed:
                killed.append(second)
                kill(driver, second)

        return count

    go(tmp_path / "there", config, pool, progress=Progress(counter=counter))
    go(tmp_path / "here", config, here)
    same(content(tmp_path / "there"), content(tmp_path / "here"))
    assert killed
    assert len(pool._verifiers) == 1


@pytest.fixture(scope="module")
def with_a_model(files, tmp_path_factory):
    """Settings of a small run of the embedded model, and what it writes on this machine alone."""
    config = config_of(
        files, iterations=1, model=ModelConfig("embedded", device="cpu", threads=1), chunk_texts=8,
        propose=ProposeConfig(proposals=24, proposals_per_prompt=8, max_tokens=40),
        solve=SolveConfig(candidates_per_puzzle=4, max_tokens=24), finetune=FinetuneConfig(max_steps=2),
        evaluate=EvaluateConfig(samples_per_puzzle=4, k=(1, 4), max_tokens=24),
    )  # fmt: skip
    path = tmp_path_factory.mktemp("local") / "run"
    run_as_asked(config, path)
    return config, path


def run_as_asked(config, path, progress=None):
    with engines.judges(config, print) as (pool, protections), engines.engine(config, RunDir(path)) as backend:
        run(RunDir(path), config, backend, pool, protections, progress)


@pytest.mark.slow
@pytest.mark.parametrize("killing", ["", "iteration 1: propose", "iteration 1: score dev"])
def test_a_run_that_samples_on_two_nodes_writes_the_same(with_a_model, driver, second, tmp_path, killing):
    config, whole = with_a_model
    killed = []

    def counter(total, description, unit):
        def count(*_):
            if description == killing and not killed:
                killed.append(second)
                kill(driver, second)

        return count

    there = dataclasses.replace(config, executor="ray", ray=RayConfig(driver.address, samplers=2))
    run_as_asked(there, tmp_path / "run", Progress(counter=counter))
    assert bool(killed) == bool(killing)
    assert differences(tmp_path / "run", whole) == ["config"]


# ---- sampling ----


def test_texts_do_not_depend_on_how_many_sample(driver, tiny):
    from selfplay.sampling.model import LanguageModel

    config = ModelConfig(device="cpu", threads=1)
    alone = LanguageModel(tiny(), config)
    prompts = [propose_prompt("plain", begun=f"def f({begun}") for begun in ("x: int", "s: str")]
    there = RayModel(tiny(), config, 2)
    try:
        assert (there.checkpoint, there.notes) == (alone.checkpoint, alone.notes)
        assert (there.description, there.parameters) == (alone.description, alone.parameters)
        assert there.overlap == 2
        assert there.own_bytes == alone.own_bytes
        assert there.batch_rows(10) >= 1
        assert there.fits(prompts[0], 400) is alone.fits(prompts[0], 400) is True
        assert there.fits(prompts[0], 520) is alone.fits(prompts[0], 520) is False
        assert there.tokens_of("return 7 * x") == alone.tokens_of("return 7 * x")
        found = {}

        def sample(seed):
            done = []
            sampled = there.sample(prompts, 3, SETTINGS, [seed], done.append)
            assert sum(done) == 6
            found[seed] = sampled.completions_P_K

        threads = [threading.Thread(target=sample, args=(seed,)) for seed in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for seed in range(4):
            assert found[seed] == alone.sample(prompts, 3, SETTINGS, [seed]).completions_P_K
    finally:
        there.close()


def test_work_that_is_given_up_ends_and_the_last_sampler_that_is_lost_is_told(driver, tiny):
    there = RayModel(tiny(), ModelConfig(device="cpu", threads=1), 1)

    calls = []

    def give_up(done):
        calls.append(done)
        if len(calls) == 2:
            raise TimeoutError

    assert there.overlap == 0
    try:
        with pytest.raises(TimeoutError):
            there.sample([propose_prompt("plain")], 5000, SETTINGS, [0], give_up)
        with pytest.raises(ClusterFailed, match="the last node that sampled is lost"):
            there.sample([propose_prompt("plain")], 1, SETTINGS, [0])
    finally:
        there.close()


def test_a_model_that_is_not_there_is_the_users_mistake(driver, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"empty.*all nodes must see this folder"):
        RayModel(tmp_path / "empty", ModelConfig(device="cpu"), 1)


def test_there_is_a_sampler_for_each_card_or_one_and_never_more_than_cards(monkeypatch):
    def placed(gpus, device="auto", samplers=0):
        nodes = [cluster._Node(str(number), str(number), 4, count) for number, count in enumerate(gpus)]
        monkeypatch.setattr(cluster, "_nodes", lambda: nodes)
        places, cards = cluster._places(device, samplers)
        return "".join(node.id for node in places), cards

    assert placed([2, 0, 1]) == ("020", 1)
    assert placed([2, 0, 1], samplers=2) == ("02", 1)
    assert placed([2, 0, 1], samplers=9) == ("020", 1)
    assert placed([2, 0, 1], "cpu", samplers=4) == ("0120", 0)
    assert placed([0, 0]) == ("0", 0)
    with pytest.raises(ClusterFailed):
        placed([])


# ---- getting in ----


def outcome(capsys, *settings):
    changed = [part for setting in settings for part in ("--set", setting)]
    status = main(["run", "--name", "there", "--set", "executor=ray", *changed])
    return status, capsys.readouterr().err.splitlines()[-1]


def test_an_address_where_nobody_listens_is_told_at_once(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
    status, line = outcome(capsys, f"ray.address=127.0.0.1:{port}")
    assert status == 3
    assert line.startswith(f"selfplay: 127.0.0.1:{port}: no Ray cluster there (")
    monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{port}")
    assert outcome(capsys)[1] == line


@pytest.mark.parametrize("address", ["nowhere", "ray://10.0.0.1:10001", "10.0.0.1:port"])
def test_an_address_that_is_none_is_the_users_mistake(address, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    status, line = outcome(capsys, f"ray.address={address}")
    assert status == 2
    assert line.startswith("selfplay: ray.address: expected host:port")


def test_without_the_package_it_says_what_to_install(monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "ray" else find(name, *rest))
    status, line = outcome(capsys)
    assert (status, "pip install '.[ray]'" in line) == (2, True)
    assert not Path("runs").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"RAY_AUTH_TOKEN": "ab" * 32}, "does not accept the token: RAY_AUTH_MODE is token, RAY_AUTH_TOKEN is set"),
        ({"RAY_AUTH_TOKEN": None}, "RAY_AUTH_TOKEN is not set"),
        ({"RAY_AUTH_TOKEN": None, "RAY_AUTH_MODE": None}, "RAY_AUTH_MODE is not set, RAY_AUTH_TOKEN is not set"),
    ],
)
def test_a_token_that_is_wrong_or_missing_is_told(head, changed, why, tmp_path):
    known = {**os.environ, "HOME": str(tmp_path), **changed}
    environment = {name: value for name, value in known.items() if value is not None}
    command = [
        sys.executable,
        "-m",
        "selfplay.commands.main",
        "run",
        "--set",
        "executor=ray",
        "--set",
        f"ray.address={head.address}",
    ]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 3
    line = done.stderr.splitlines()[-1]
    assert line.startswith(f"selfplay: {head.address}: ")
    assert why in line
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_a_cluster_of_its_own_ends_with_the_command_and_leaves_the_home_folder_alone(files, tmp_path):
    sets = [part for name, path in files.items() for part in ("--set", f"data.{name}={path}")]
    small = ["iterations=0", "evaluate.samples_per_puzzle=1", "evaluate.k=[1]", "evaluate.max_tokens=8"]
    command = [sys.executable, "-m", "selfplay.commands.main", "run", "--set", "executor=ray", *sets]
    command += [part for setting in small for part in ("--set", setting)]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    process = subprocess.Popen(command, cwd=tmp_path, env={**environment, "HOME": str(tmp_path / "home")})
    below = set()
    while process.poll() is None:
        below |= descendants(process.pid)
        time.sleep(0.1)
    assert process.returncode == 0
    assert (tmp_path / "runs" / "embedded" / "records.jsonl").exists()
    assert len(below) > 3
    assert still_running(below) == []
    assert not (tmp_path / "home").exists()


def test_verdicts_are_those_of_this_machine(driver, made, here):
    (puzzle,) = parse_puzzles(here, [Text("def f(x: int):\n    return x % 4 == 0 and x > 9")])
    texts = [Text(f"def g():\n    return {number}") for number in range(24)]
    pairs = [(puzzle, candidate) for candidate in parse_candidates(here, texts)]
    assert [(j.verdict, j.answer) for j in verify(made(), pairs)] == [
        (j.verdict, j.answer) for j in verify(here, pairs)
    ]
