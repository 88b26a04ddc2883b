"""The scripts of trials on three nodes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.faults import faults
from tests.faults.plays import PATIENT
from tests.service import channel_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.faults.cluster_trial import ClusterTrial
    from tests.servers.rabbitmq import RabbitMQ

    ClusterPlay = Callable[[ClusterTrial], None]
    Choice = Callable[[ClusterTrial], RabbitMQ]
    Hurt = Callable[[ClusterTrial, RabbitMQ], None]

MESSAGES = 200


def begin(trial: ClusterTrial, *flags: str) -> None:
    """Have the service at work, at a node that does not lead the queue."""
    leader = trial.broker.leader(trial.queue)
    trial.order(*trial.broker.others(leader), leader)
    trial.publish(MESSAGES)
    trial.sink_leg.add("latency", "downstream", name="pace", latency=20)
    trial.start(*flags)
    trial.wait_writes()


def leads(trial: ClusterTrial) -> RabbitMQ:
    """The node that leads the queue."""
    return trial.broker.leader(trial.queue)


def serves(trial: ClusterTrial) -> RabbitMQ:
    """The node that the service is connected to."""
    return trial.broker.used_by(trial.service.process.pid)


def kill(trial: ClusterTrial, node: RabbitMQ) -> None:
    """SIGKILL, without a warning."""
    node.host.kill()
    trial.account.kills += 1


def stop(trial: ClusterTrial, node: RabbitMQ) -> None:
    """SIGTERM."""
    del trial
    node.stop()


def freeze(trial: ClusterTrial, node: RabbitMQ) -> None:
    """SIGSTOP."""
    trial.broker.freeze(node)


def part(trial: ClusterTrial, node: RabbitMQ) -> None:
    """Cut it off from the others: it pauses itself, and closes its listeners."""
    trial.broker.part(node)


def silence(trial: ClusterTrial, node: RabbitMQ) -> None:
    """The same, and nothing tells of it but that nothing comes."""
    trial.broker.silence(node)


def part_and_go_on(trial: ClusterTrial, node: RabbitMQ) -> None:
    """Cut it off, and let it go on: it takes clients, and no message comes to them."""
    trial.broker.handling("ignore")
    trial.broker.part(node)


def hurt_one(choose: Choice, hurt: Hurt, *, refused: bool = False) -> ClusterPlay:
    """One node is hurt; the service goes on at the others, and after the node has come back.

    ``refused``: some documents are refused for ever, so that there are dead letters on the way too.
    """

    def play(trial: ClusterTrial) -> None:
        if refused:
            faults.Mixed().start(trial)
        begin(trial, *(PATIENT if refused else ()))
        node = choose(trial)
        trial.well = trial.broker.others(node)
        hurt(trial, node)
        trial.goes_on()
        trial.heal()
        trial.publish(20)

    return play


def each_in_turn(hurt: Hurt) -> ClusterPlay:
    """Every node is hurt, one after the other, each once the one before has come back."""

    def play(trial: ClusterTrial) -> None:
        begin(trial)
        for node in trial.broker.nodes:
            trial.well = trial.broker.others(node)
            hurt(trial, node)
            trial.goes_on(100)
            trial.heal()

    return play


def no_majority(trial: ClusterTrial) -> None:
    """Two of three nodes are killed: nothing can be acked, nothing taken; then they come back."""
    begin(trial)
    for node in trial.broker.nodes[1:]:
        kill(trial, node)
    faults.hold(trial, 5.0)
    trial.heal()
    trial.note_healed()
    trial.publish(20)


def dead_letters_away(trial: ClusterTrial) -> None:
    """The queue of dead letters stands on one node alone, and that is killed: they wait, unacked."""
    dead = f"{trial.queue}.dead"
    home, *others = trial.broker.nodes
    trial.broker.delete_queues(dead)
    with channel_of(home.url) as channel:
        channel.queue_declare(queue=dead, durable=True, auto_delete=False)
    trial.order(*others, home)
    faults.Mixed().start(trial)
    trial.publish(MESSAGES)
    trial.start(*PATIENT)
    trial.wait_writes()
    kill(trial, home)
    trial.well = others
    trial.publish(MESSAGES)
    faults.hold(trial, 3.0)
    trial.heal()
    trial.note_healed()
    trial.publish(20)
