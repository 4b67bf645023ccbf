"""A language model as judge of answers: `suite` is what is asked and scored, `verdicts` asks once and stores."""
