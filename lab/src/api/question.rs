//! What virtual machines ask, and what an answer does.
//!
//! A rule makes a VM ask: one that is being powered on, which then waits for the answer, or one that is on, whose guest stands
//! still.  Every question has the choices of a disk that has no room left.

use std::sync::Arc;

use vim25_types::soap::Fault;
use vim25_types::{
    ChoiceOption, Description, ElementDescription, ManagedObjectReference as Moref, OptionType, VirtualMachineMessage,
    VirtualMachineQuestionInfo, methods as m,
};

use super::dispatch::Cx;
use super::vm::{runtime, vm};
use super::{fault, vm_power};
use crate::lab::Lab;
use crate::world::Question;

/// What can be answered, the key of each its place here.  The first is the default: the VM goes on.  With the other it goes off.
const CHOICES: [&str; 2] = ["Retry", "Cancel"];

/// The question as vSphere shows it.
pub(crate) fn info(question: &Question) -> VirtualMachineQuestionInfo {
    let choice = |(key, label): (usize, &&str)| ElementDescription {
        base: Description { label: (*label).into(), summary: (*label).into() },
        key: key.to_string(),
    };
    let (id, text) = question.text.split_once(':').unwrap_or(("msg.lab", &question.text));
    VirtualMachineQuestionInfo {
        id: question.id.clone(),
        text: question.text.clone(),
        choice: ChoiceOption {
            base: OptionType::default(),
            choice_info: CHOICES.iter().enumerate().map(|one| choice(one).into()).collect(),
            default_index: Some(0),
        },
        message: vec![VirtualMachineMessage { id: id.into(), text: Some(text.into()), ..Default::default() }],
    }
}

/// Lets a VM ask, unless its power is another by now.
fn begin(lab: &Lab, this: &Moref, on: bool, text: &str) {
    lab.change(|w| {
        let id = w.fresh("question");
        if let Some(vm) = w.vm_state_mut(&this.value).filter(|vm| vm.is_on() == on) {
            vm.question = Some(Question { id, text: text.into(), answer: None });
        }
    });
}

/// Makes a VM ask that is on; another one has nothing to ask.
pub(super) async fn ask(lab: &Arc<Lab>, this: &Moref, text: &str) {
    if lab.read(|w| w.vm(&this.value).is_some_and(|vm| vm.is_on() && vm.question.is_none()))
        && runtime(lab, this).pause(true).await.is_ok()
    {
        begin(lab, this, true, text);
    }
}

/// Asks before a VM is powered on.
///
/// # Errors
/// When the answer is that it is not to be.
pub(super) async fn ask_first(lab: &Arc<Lab>, this: &Moref, text: &str) -> Result<(), Fault> {
    let mut changes = lab.watch();
    begin(lab, this, false, text);
    loop {
        let answer = lab.read(|w| vm(w, this).map(|vm| vm.question.as_ref().map(|q| q.answer)))?;
        if let Some(answer) = answer.unwrap_or(Some(0)) {
            lab.change(|w| w.vm_state_mut(&this.value).map(|vm| vm.question = None));
            return if answer == 0 { Ok(()) } else { Err(fault::cancelled(text)) };
        }
        // The lab outlives its tasks.
        let _ = changes.changed().await;
    }
}

/// Refuses what cannot be done to a VM that waits for an answer.
pub(super) fn must_not_ask(lab: &Lab, this: &Moref) -> Result<(), Fault> {
    let text = lab.read(|w| w.vm(&this.value).and_then(|vm| Some(vm.asks()?.text.clone())));
    text.map_or(Ok(()), |text| Err(fault::question_pending(&text)))
}

pub(super) async fn answer(cx: &Cx, request: m::AnswerVM) -> Result<(), Fault> {
    let (lab, this) = (&cx.lab, &request.this);
    let choice = (0..CHOICES.len()).find(|key| key.to_string() == request.answer_choice);
    let on = lab.change(|w| {
        let vm = w.vm_state_mut(&this.value).ok_or_else(|| fault::not_found(this))?;
        let on = vm.is_on();
        let open = vm.question.as_mut().filter(|q| q.answer.is_none());
        let question = open.ok_or_else(|| fault::concurrent_access("the question has been answered already"))?;
        if question.id != request.question_id {
            return Err(fault::invalid_argument("questionId", "it is not what the virtual machine asks"));
        }
        let choice = choice.ok_or_else(|| fault::invalid_argument("answerChoice", "it is no choice's key"))?;
        if on {
            vm.question = None;
        } else {
            // The power-on that waits takes it from there.
            question.answer = Some(choice);
        }
        Ok(on.then_some(choice))
    })?;
    match on {
        // What fails then is what fails of a VM that has gone off.
        Some(0) => _ = runtime(lab, this).pause(false).await,
        Some(_) => {
            let (lab, this) = (lab.clone(), this.clone());
            tokio::spawn(async move { vm_power::turn_off(&lab, &this).await });
        }
        None => {}
    }
    Ok(())
}
