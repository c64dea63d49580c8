"""GRPO with TRL on puzzles, with the judge as reward: `pip install . trl` in a clone, then

selfplay archive import puzzles.sqlite train
selfplay archive export puzzles.sqlite puzzles.jsonl --format trl
python trl_grpo.py Qwen/Qwen2.5-Coder-0.5B-Instruct puzzles.jsonl
"""

import sys

import torch
from datasets import load_dataset
from trl import GRPOConfig, GRPOTrainer

from selfplay.adapters.trl_reward import judge_reward

if __name__ == "__main__":
    on_gpu = torch.cuda.is_available()
    model, puzzles, *steps = sys.argv[1:]
    trainer = GRPOTrainer(
        model=model,
        reward_funcs=judge_reward(),  # or judge_reward("conjuncts"), or judge_reward("learnability")
        args=GRPOConfig("grpo", max_steps=int(*steps or [1000]), bf16=on_gpu, use_cpu=not on_gpu),
        train_dataset=load_dataset("json", data_files=puzzles, split="train"),
    )
    trainer.train()
    print(trainer.state.log_history[-1])
