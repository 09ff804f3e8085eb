//! The judge on departures made up for it: it must find what is wrong, and only that.

use super::*;
use crate::addresses::VIPS;

const A: Machine = Machine::A;
const B: Machine = Machine::B;

const V4: IpAddr = VIPS[0];
const V6: IpAddr = VIPS[1];
/// Of another group.
const OTHER: IpAddr = VIPS[2];

/// An answer to a question asked just before.
fn answer(at: u64, node: Machine, epoch: u64) -> Departure {
    Departure { at: BootTime(at), node, address: V4, epoch, asked: BootTime(at - 1) }
}

fn judge(answers: &[Departure]) -> Vec<(Rule, u64)> {
    judge_with(answers, &[])
}

fn judge_with(answers: &[Departure], claims: &[(u64, Machine)]) -> Vec<(Rule, u64)> {
    judge_all(&Departures {
        answers: answers.to_vec(),
        packets: claims.iter().map(|&(at, node)| packet(at, node, V4, What::Claim)).collect(),
        ..Departures::default()
    })
}

fn judge_all(seen: &Departures) -> Vec<(Rule, u64)> {
    violations(seen).into_iter().map(|violation| (violation.rule, violation.at.ns())).collect()
}

fn packet(at: u64, node: Machine, address: IpAddr, what: What) -> Packet {
    Packet { at: BootTime(at), node, address, what }
}

/// What left after `b` had got another file at `at`.
fn edited(answers: &[Departure], at: u64) -> Departures {
    Departures {
        answers: answers.to_vec(),
        edits: vec![(BootTime(at), B)],
        ..Departures::default()
    }
}

#[test]
fn a_takeover_and_a_failback_are_in_order() {
    let answers = [
        answer(10, A, 0x101),
        answer(20, A, 0x101),
        answer(30, B, 0x202),
        answer(40, B, 0x202),
        answer(50, A, 0x301),
    ];
    assert_eq!(judge(&answers), []);
    assert_eq!(judge(&[]), []);
}

#[test]
fn one_late_answer_of_the_old_node_is_found() {
    let answers = [answer(10, A, 0x101), answer(30, B, 0x202), answer(31, A, 0x101)];
    assert_eq!(judge(&answers), [(Rule::Order, 31)]);
}

#[test]
fn two_nodes_that_take_turns_are_found_at_each_turn_of_the_lower_one() {
    let answers: Vec<_> =
        (0..5).flat_map(|n| [answer(10 + 2 * n, A, 0x101), answer(11 + 2 * n, B, 0x202)]).collect();
    let times: Vec<_> = judge(&answers).into_iter().map(|(_, at)| at).collect();
    assert_eq!(times, [12, 14, 16, 18]);
}

#[test]
fn the_same_epoch_on_two_nodes_is_found() {
    assert_eq!(judge(&[answer(10, A, 0x101), answer(11, B, 0x101)]), [(Rule::Order, 11)]);
}

#[test]
fn a_node_that_never_held_and_answers_is_found() {
    assert_eq!(judge(&[answer(10, A, 0x101), answer(11, B, 0)]), [(Rule::Order, 11)]);
}

#[test]
fn a_higher_epoch_that_was_there_for_one_answer_only_counts_for_ever() {
    let answers = [answer(10, B, 0x202), answer(1_000_000, A, 0x101)];
    assert_eq!(judge(&answers), [(Rule::Order, 1_000_000)]);
}

#[test]
fn an_old_question_answered_after_another_node_served_is_found() {
    let late = Departure { asked: BootTime(20), ..answer(60, A, 0x301) };
    let answers = [answer(10, A, 0x101), answer(30, B, 0x202), answer(50, A, 0x301), late];
    assert_eq!(judge(&answers), [(Rule::Stale, 60)]);
    // Asked while the other node served already: it was on its way to the new holder.
    let fresh = Departure { asked: BootTime(35), ..late };
    assert_eq!(judge(&[answers[0], answers[1], answers[2], fresh]), []);
    // The judge began in the middle: when b began to serve is not known.
    assert_eq!(judge(&[answers[1], late]), []);
    // Left unread within one holding: slow, and right.
    let slow = Departure { asked: BootTime(2), ..answer(60, A, 0x101) };
    assert_eq!(judge(&[answers[0], slow]), []);
}

#[test]
fn a_claim_just_before_a_takeover_is_right_and_a_late_one_is_found() {
    let answers = [answer(10, A, 0x101), answer(30, B, 0x202), answer(40, A, 0x101)];
    assert_eq!(judge_with(&answers[..2], &[(25, B)]), []);
    assert_eq!(judge_with(&answers, &[(35, A)]), [(Rule::Claim, 35), (Rule::Order, 40)]);
    // It claimed and was never heard of again: nobody can tell under which epoch.
    assert_eq!(judge_with(&answers[..2], &[(35, A)]), []);
    // Before anybody else served.
    assert_eq!(judge_with(&answers[..2], &[(5, A), (15, A)]), []);
}

#[test]
fn a_packet_while_the_other_node_holds_is_found_although_its_node_never_answers_again() {
    let answers = [answer(10, A, 0x101), answer(30, B, 0x202), answer(40, B, 0x202)];
    assert_eq!(judge_with(&answers, &[(20, A), (35, A)]), [(Rule::Claim, 35)]);
    let of = |address, what| Departures {
        answers: answers.to_vec(),
        packets: vec![packet(35, A, address, what)],
        lines: vec![vec![V4, V6], vec![OTHER]],
        ..Departures::default()
    };
    assert_eq!(judge_all(&of(V4, What::Data)), [(Rule::Data, 35)]);
    // The other family is of the same group, and another group is held apart.
    assert_eq!(judge_all(&of(V6, What::Data)), [(Rule::Data, 35)]);
    assert_eq!(judge_all(&of(OTHER, What::Data)), []);
    // It held since, and the other node went on too long.
    let late = [answers[0], answers[1], answer(37, A, 0x301), answers[2]];
    assert_eq!(judge_with(&late, &[(35, A)]), [(Rule::Order, 40)]);
    // So too where it claimed after its last answer that was seen.
    let ended = [answers[0], answers[1], answer(40, A, 0x101)];
    assert_eq!(judge_with(&ended, &[(35, B)]), [(Rule::Order, 40)]);
    // It took over in between, and back.
    let answers = [answers[0], answers[1], answer(50, B, 0x402)];
    assert_eq!(judge_with(&answers, &[(35, A)]), []);
}

#[test]
fn groups_have_epochs_of_their_own() {
    let other = Departure { address: OTHER, ..answer(20, B, 0x102) };
    let seen = Departures {
        answers: vec![answer(10, A, 0x901), other, answer(30, A, 0x901)],
        lines: vec![vec![V4, V6], vec![OTHER]],
        ..Departures::default()
    };
    assert_eq!(judge_all(&seen), []);
    let both = Departures { lines: vec![vec![V4, V6, OTHER]], ..seen };
    assert_eq!(judge_all(&both), [(Rule::Order, 20)]);
}

#[test]
fn where_files_differ_who_answers_in_turn_is_found_and_epochs_are_not_compared() {
    // The address is in another group on b now, with epochs of its own.
    let moved = [answer(10, A, 0x901), answer(30, B, 0x202), answer(40, B, 0x202)];
    assert_eq!(judge_all(&edited(&moved, 20)), []);
    assert_eq!(judge(&moved), [(Rule::Order, 30), (Rule::Order, 40)]);
    let both =
        [answer(10, A, 0x901), answer(30, B, 0x202), answer(40, A, 0x901), answer(50, B, 0x202)];
    assert_eq!(judge_all(&edited(&both, 20)), [(Rule::Return, 40), (Rule::Return, 50)]);
    // A node that got another file may have held under the same number before.
    let again = [answer(10, B, 0x202), answer(15, A, 0x901), answer(30, B, 0x202)];
    assert_eq!(judge_all(&edited(&again, 20)), []);
    assert_eq!(judge_all(&edited(&again, 40)), [(Rule::Return, 30)]);
    let mut late = edited(&moved, 20);
    late.packets.push(packet(35, A, V4, What::Data));
    assert_eq!(judge_all(&late), [(Rule::Data, 35)]);
}

#[test]
fn a_violation_says_who_and_how_late() {
    let answers = vec![answer(1_000_000, B, 0x202), answer(2_500_000, A, 0x101)];
    let found = violations(&Departures { answers, ..Departures::default() });
    assert_eq!(
        found[0].to_string(),
        "a answered for 192.0.2.100 under epoch 0x101, 1.500 ms after b had answered under epoch 0x202"
    );
}

#[test]
fn stretches_tell_who_served_when() {
    let answers =
        [answer(10, A, 1), answer(20, A, 1), answer(30, B, 2), answer(35, A, 1), answer(40, A, 3)];
    let found: Vec<_> =
        stretches(&answers, V4).iter().map(|s| (s.first.at.ns(), s.last.ns(), s.count)).collect();
    assert_eq!(found, [(10, 20, 2), (30, 30, 1), (35, 35, 1), (40, 40, 1)]);
}

#[test]
fn silence_is_measured_to_both_ends() {
    let answers = [answer(10, A, 1), answer(20, A, 1), answer(90, B, 2)];
    let silence = |answers: &[Departure], from, to| {
        let Silence { from, ns } = longest_silence(answers, V4, BootTime(from), BootTime(to));
        (from.ns(), ns)
    };
    assert_eq!(silence(&answers, 5, 95), (20, 70));
    assert_eq!(silence(&answers, 15, 200), (90, 110));
    assert_eq!(silence(&[], 5, 25), (5, 20));
}
