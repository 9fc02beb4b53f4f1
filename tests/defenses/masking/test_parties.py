"""Secure aggregation: sums under dropouts, and what single messages and too few shares tell."""

from __future__ import annotations

import itertools
from collections.abc import Collection

import numpy as np
import pytest
from Crypto.Protocol.SecretSharing import Shamir
from scipy.stats import chisquare, kstest

from defenses.masking.masking import Masking
from defenses.masking.parties import (
    Advertisement,
    Participant,
    Server,
    UnmaskingShares,
    agree_on_keys,
    apply_mask,
    as_words,
    mask_key,
    own_mask,
    pair_mask,
    roster_digest,
)
from defenses.secure.fixed_point import Integers
from fl_core.base.errors import InputError

VALUES = 40_000


def update_of(client: int) -> Integers:
    """A client's update in steps: small numbers, as far from uniform as updates are."""
    return np.random.default_rng(client).normal(scale=1000, size=VALUES).astype(np.int64)


def agreed(
    clients: Collection[int], threshold: int
) -> tuple[dict[int, Participant], dict[int, Advertisement]]:
    """Participants that hold each other's shares."""
    parties, roster, _ = agree_on_keys(clients, threshold=threshold, word_bits=32)
    return parties, roster


def uniformity(masked: bytes) -> tuple[float, float]:
    """P-values: of the bytes' histogram, and of the words' distribution."""
    counts = np.bincount(np.frombuffer(masked, dtype=np.uint8), minlength=256)
    words = np.frombuffer(masked, dtype="<u4") / 2.0**32
    return float(chisquare(counts).pvalue), float(kstest(words, "uniform").pvalue)


def test_any_droppers_down_to_the_threshold() -> None:
    """Every way in which five clients drop out before their upload, stay silent after it, or stay."""
    clients = [2, 3, 5, 7, 11]
    numbers = {client: update_of(client)[:62] for client in clients}
    finished = 0
    for fates in itertools.product(("stays", "drops", "silent"), repeat=5):
        fate = dict(zip(clients, fates, strict=True))
        there = [client for client in clients if fate[client] != "drops"]
        helping = [client for client in there if fate[client] != "silent"]
        parties, roster = agreed(clients, threshold=3)
        server = Server(roster, values=62, threshold=3, word_bits=32)
        for client in there:
            server.add(client, parties[client].masker()(numbers[client]))
        if len(helping) < 3:
            with pytest.raises(InputError, match=r"needs 3 .*no sum is revealed"):
                server.reveal(
                    {client: parties[client].unmasking_shares(server.survivors) for client in helping}
                )
            continue
        opened = server.reveal(
            {client: parties[client].unmasking_shares(server.survivors) for client in helping}
        )
        assert opened.tolist() == np.sum([numbers[client] for client in there], axis=0).tolist()
        finished += 1
    assert finished == 1 + 5 * 2 + 10 * 4  # All five stay, four do, three do.


@pytest.mark.parametrize(("clients", "needed"), [(2, 2), (3, 2), (10, 7), (100, 67)])
def test_threshold_in_clients(clients: int, needed: int) -> None:
    assert Masking().needed(clients) == needed
    assert Masking(threshold=1.0).needed(clients) == clients
    assert Masking(threshold=0.51).needed(100) == 51


def test_a_masked_update_is_uniform_and_an_unmasked_one_is_not() -> None:
    parties, _ = agreed(range(3), threshold=2)
    plain = update_of(0)
    masked = parties[0].masker()(plain)
    assert min(uniformity(masked)) > 1e-4
    assert max(uniformity(as_words(plain, 32).tobytes())) < 1e-12
    # Without its own mask it is as uniform; with no mask but half of the words it is found out too.
    half = masked[: 2 * VALUES] + as_words(plain, 32).tobytes()[2 * VALUES :]
    assert max(uniformity(half)) < 1e-12


def test_a_late_update_of_a_dropped_client_tells_nothing() -> None:
    """Client 0 is declared dropped, so its pairwise masks are known to the server; then its upload arrives."""
    parties, roster = agreed(range(4), threshold=2)
    late = parties[0].masker()(update_of(0))
    server = Server(roster, values=VALUES, threshold=2, word_bits=32)
    for client in (1, 2, 3):
        server.add(client, parties[client].masker()(update_of(client)))
    answers = {client: parties[client].unmasking_shares(server.survivors) for client in (1, 2, 3)}
    assert server.reveal(answers).tolist() == sum(update_of(client) for client in (1, 2, 3)).tolist()  # type: ignore[union-attr]

    seed = Shamir.combine([(client + 1, answers[client].pairwise[0]) for client in (1, 2)])
    digest = roster_digest(roster)
    bare = np.frombuffer(late, dtype="<u4").copy()
    for other in (1, 2, 3):
        apply_mask(bare, pair_mask(mask_key(seed), roster[other].mask, digest), np.subtract)
    assert min(uniformity(bare.tobytes())) > 1e-4
    # The mask of its own is all that stands between: nobody gave away a share of it.
    assert all(0 not in answer.own for answer in answers.values())
    apply_mask(bare, own_mask(parties[0]._own_seed, digest), np.subtract)
    assert bare.view("<i4").tolist() == update_of(0).tolist()


def test_nobody_gives_away_both_seeds() -> None:
    parties, _ = agreed(range(4), threshold=3)
    answer = parties[0].unmasking_shares(frozenset({0, 1, 2}))
    assert answer.own.keys() == {0, 1, 2}
    assert answer.pairwise.keys() == {3}
    with pytest.raises(InputError, match="does not answer twice"):
        parties[0].unmasking_shares(frozenset({0, 1, 3}))
    for survivors in (frozenset({0, 1}), frozenset({0, 1, 9})):
        with pytest.raises(InputError, match=r"2 clients are left.* needs 3"):
            parties[1].unmasking_shares(survivors)


def test_fewer_shares_than_the_threshold_give_another_seed() -> None:
    parties, _ = agreed(range(5), threshold=3)
    answers = {client: parties[client].unmasking_shares(frozenset({0, 1, 2, 3})) for client in range(4)}
    shares = [(client + 1, answer.pairwise[4]) for client, answer in answers.items()]
    seed = parties[4]._pairwise_seed
    for few in itertools.combinations(shares, 2):
        assert Shamir.combine(list(few)) != seed
    for enough in itertools.combinations(shares, 3):
        assert Shamir.combine(list(enough)) == seed


def test_below_the_threshold_the_sum_stays_masked() -> None:
    parties, roster = agreed(range(4), threshold=3)
    server = Server(roster, values=VALUES, threshold=3, word_bits=32)
    for client in range(4):
        server.add(client, parties[client].masker()(update_of(client)))
    answers = {client: parties[client].unmasking_shares(server.survivors) for client in (0, 1)}
    with pytest.raises(InputError, match="2 clients are left"):
        server.reveal(answers)
    assert min(uniformity(server._total.tobytes())) > 1e-4
    with pytest.raises(InputError, match="sent twice"):
        server.add(1, parties[1].masker()(update_of(1)))


def test_a_wrong_share_is_noticed() -> None:
    parties, roster = agreed(range(3), threshold=2)
    server = Server(roster, values=VALUES, threshold=2, word_bits=32)
    for client in (0, 1):
        server.add(client, parties[client].masker()(update_of(client)))
    answers = {client: parties[client].unmasking_shares(server.survivors) for client in (0, 1)}
    wrong = UnmaskingShares(own=answers[0].own, pairwise={2: bytes(16)})
    with pytest.raises(InputError, match="shares of client 2 do not give its key"):
        server.reveal({0: wrong, 1: answers[1]})


def test_shares_are_sealed_for_their_receiver() -> None:
    parties = {client: Participant(client, threshold=2, word_bits=32) for client in range(3)}
    roster = {client: party.advertise() for client, party in parties.items()}
    mail = {client: party.share(roster) for client, party in parties.items()}
    for message in (mail[0][2], mail[0][1][:-1] + bytes([mail[0][1][-1] ^ 1])):
        with pytest.raises(InputError, match="Client 1 cannot read the shares of client 0"):
            parties[1].receive(0, message)
    parties[1].receive(0, mail[0][1])


def test_masks_are_new_in_every_round() -> None:
    """The same update twice: the difference of the uploads is as uniform as each of them."""
    uploads = [agreed(range(2), threshold=2)[0][0].masker()(update_of(0)) for _ in range(2)]
    first, second = (np.frombuffer(upload, dtype="<u4") for upload in uploads)
    assert min(uniformity((first - second).tobytes())) > 1e-4


def test_an_upload_in_the_sum_is_hidden_by_its_pairwise_masks() -> None:
    """The server learns the own masks of survivors: taken off, what is left is uniform still."""
    parties, roster = agreed(range(3), threshold=2)
    bare = np.frombuffer(parties[1].masker()(update_of(1)), dtype="<u4").copy()
    apply_mask(bare, own_mask(parties[1]._own_seed, roster_digest(roster)), np.subtract)
    assert min(uniformity(bare.tobytes())) > 1e-4


def test_pairwise_keys_belong_to_two_clients_and_one_round() -> None:
    parties, roster = agreed(range(3), threshold=2)
    digest = roster_digest(roster)
    private = [mask_key(party._pairwise_seed) for party in parties.values()]
    keys = {
        (mine, other): pair_mask(private[mine], roster[other].mask, digest)
        for mine, other in itertools.permutations(range(3), 2)
    }
    assert all(keys[mine, other] == keys[other, mine] for mine, other in keys)
    assert len(set(keys.values())) == 3
    assert all(len(key) == 32 for key in keys.values())
    assert pair_mask(private[0], roster[1].mask, roster_digest({0: roster[0], 1: roster[1]})) != keys[0, 1]
