"""AltPO: answers that the target made up itself are preferred to the true one.

Mekala et al., "Alternate Preference Optimization", arXiv:2409.13474: DPO (arXiv:2305.18290) between an alternate answer
y_a and the true answer y of a forget prompt x, beside the NLL of retain answers. Alternates are sampled from the model
before unlearning, at temperature 1, several for each prompt; they are plausible and wrong, so that the model keeps
answering as it does. The pipeline has the target make them once (`pipeline/unlearn/prepare.py`); here they are rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

from lume_run.common.lazy import F
from lume_run.common.records import Ask, Example, Question
from lume_run.common.seeds import pick
from lume_run.config.fields import setting
from lume_run.methods.base import Signals
from lume_run.methods.needs import Needs, Role

if TYPE_CHECKING:
    from torch import Tensor

PROMPT_SLOT, ANSWER_SLOT = "{question}", "{answer}"
ENDS = ("Question:", "Q:")  # where a sample goes on to a question of its own
BOTH: frozenset[Role] = frozenset({Role.FORGET, Role.FORGET_ALTERNATE})


@dataclass(frozen=True, kw_only=True)
class AltPO:
    """Forget: -(2/beta) mean over rows and their alternates of log sigmoid(beta (log pi/ref(y_a) - log pi/ref(y))).

    Log-probabilities are sums over the answer. The factor 2 is the released code's; the first step is 2/beta x log 2.
    """

    beta: float = setting(0.1, low=0, open_low=True, help="inverse temperature")
    alternates: int = setting(5, low=1, high=1000, help="answers that the target makes up for each forget prompt")
    temperature: float = setting(1.0, low=0, open_low=True, high=100, help="at which they are sampled")
    max_new_tokens: int = setting(200, low=1, high=10**6, help="longest of them [tokens]")
    prompt: str = setting(help="what asks for one: {question} is the forget prompt, {answer} its true answer")
    needs: ClassVar[Needs] = Needs(rows=BOTH, reference_logps=BOTH)

    def __post_init__(self) -> None:
        """Raises ValueError for a prompt that does not hold the question."""
        if PROMPT_SLOT not in self.prompt:
            raise ValueError(f"prompt does not hold {PROMPT_SLOT}, where the forget prompt goes")

    def __call__(self, s: Signals) -> Tensor:
        """The micro-batch's share of the step's loss."""
        answer = s.sums(Role.FORGET) - s.ref_sums(Role.FORGET)  # (b,) log pi/ref [nats]
        alternates = s.sums(Role.FORGET_ALTERNATE) - s.ref_sums(Role.FORGET_ALTERNATE)  # (b x alternates,)
        margins = alternates.view(-1, self.alternates) - answer[:, None]
        losses = -F.logsigmoid(self.beta * margins).mean(1)
        return losses.sum() * (2 / self.beta) / s.totals.of(Role.FORGET).rows

    def questions(self, examples: Sequence[Example]) -> list[Question]:
        """What asks the target for alternates: the prompt in place of the example's, so many samples of each."""
        return [
            Question(example=asked, ask=Ask.SAMPLE, variant=str(number), limit=self.max_new_tokens)
            for asked in map(self.ask_for_alternate, examples)
            for number in range(self.alternates)
        ]

    def ask_for_alternate(self, example: Example) -> Example:
        """The example with the prompt that asks for another answer, in a chat as the user's turn."""
        head, slot, tail = example.template.partition(PROMPT_SLOT)
        question = example.prompt.removeprefix(head).removesuffix(tail) if slot else example.prompt
        prompt = self.prompt.replace(PROMPT_SLOT, question.strip()).replace(ANSWER_SLOT, example.answer.strip())
        return replace(example, prompt=prompt, template="", shots=(), begun="", separator=None)


def altpo_in(method: Any) -> AltPO | None:
    """The part of a method that reads alternates, alone or in a sum."""
    forget = getattr(method, "forget", None)
    parts = (forget, *(term.part for term in getattr(forget, "terms", ())))
    return next((part for part in parts if isinstance(part, AltPO)), None)


def alternate_of(sample: str, example_id: str, seed: int, refusals: Sequence[str]) -> str:
    """The answer in a sampled text; a refusal where it holds none, so that every prompt has as many alternates."""
    for end in ENDS:
        sample = sample.partition(end)[0]
    return sample.strip() or pick(example_id, seed, refusals)
