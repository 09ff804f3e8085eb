//! The judge on departures made up for it: it must find what is wrong, and only that.

use super::*;

const A: Machine = Machine::A;
const B: Machine = Machine::B;

/// An answer to a question asked just before.
fn answer(at: u64, node: Machine, epoch: u64) -> Departure {
    Departure { at: BootTime(at), node, epoch, asked: BootTime(at - 1) }
}

fn judge(answers: &[Departure]) -> Vec<(Rule, u64)> {
    judge_with(answers, &[])
}

fn judge_with(answers: &[Departure], claims: &[(u64, Machine)]) -> Vec<(Rule, u64)> {
    let claims = claims.iter().map(|&(at, node)| NodeClaim { at: BootTime(at), node }).collect();
    violations(&Departures { answers: answers.to_vec(), claims })
        .into_iter()
        .map(|violation| (violation.rule, violation.at.ns()))
        .collect()
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
fn a_violation_says_who_and_how_late() {
    let answers = vec![answer(1_000_000, B, 0x202), answer(2_500_000, A, 0x101)];
    let found = violations(&Departures { answers, claims: Vec::new() });
    assert_eq!(
        found[0].to_string(),
        "a answered under epoch 0x101, 1.500 ms after b had answered under epoch 0x202"
    );
}

#[test]
fn stretches_tell_who_served_when() {
    let answers =
        [answer(10, A, 1), answer(20, A, 1), answer(30, B, 2), answer(35, A, 1), answer(40, A, 3)];
    let found: Vec<_> =
        stretches(&answers).iter().map(|s| (s.first.at.ns(), s.last.ns(), s.count)).collect();
    assert_eq!(found, [(10, 20, 2), (30, 30, 1), (35, 35, 1), (40, 40, 1)]);
}

#[test]
fn silence_is_measured_to_both_ends() {
    let answers = [answer(10, A, 1), answer(20, A, 1), answer(90, B, 2)];
    assert_eq!(longest_silence(&answers, BootTime(5), BootTime(95)), 70);
    assert_eq!(longest_silence(&answers, BootTime(15), BootTime(200)), 110);
    assert_eq!(longest_silence(&[], BootTime(5), BootTime(25)), 20);
}
