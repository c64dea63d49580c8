#!/bin/sh
# GRPO with verl on puzzles, with the judge as score. First: python verl_rows.py puzzles.jsonl puzzles.parquet
selfplay judge --socket /tmp/judge.sock &  # all reward workers share one judge
export SELFPLAY_JUDGE=/tmp/judge.sock
python -m verl.trainer.main_ppo algorithm.adv_estimator=grpo \
    data.train_files=puzzles.parquet data.val_files=puzzles.parquet \
    actor_rollout_ref.model.path="${1:-Qwen/Qwen2.5-Coder-0.5B-Instruct}" \
    reward.custom_reward_function.path="$(python -c 'import selfplay.adapters.verl_score as s; print(s.__file__)')" \
    reward.custom_reward_function.name=compute_score
kill %1
