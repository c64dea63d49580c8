#!/usr/bin/env bash
# GRPO with verl 0.9 on puzzles, with the judge as score. First: python verl_rows.py puzzles.jsonl puzzles.parquet
selfplay judge --socket /tmp/judge.sock &  # all reward workers share one judge
trap "kill $!" EXIT
export SELFPLAY_JUDGE=/tmp/judge.sock
python -m verl.trainer.main_ppo algorithm.adv_estimator=grpo \
    data.train_files=puzzles.parquet data.val_files=puzzles.parquet data.train_batch_size=64 \
    actor_rollout_ref.model.path="${1:-Qwen/Qwen2.5-Coder-0.5B-Instruct}" \
    actor_rollout_ref.actor.ppo_mini_batch_size=64 actor_rollout_ref.actor.use_dynamic_bsz=true \
    actor_rollout_ref.rollout.name=vllm actor_rollout_ref.rollout.tensor_model_parallel_size=1 \
    actor_rollout_ref.rollout.n=8 trainer.n_gpus_per_node=1 trainer.logger=console \
    reward.custom_reward_function.path="$(python -c 'import selfplay.adapters.verl_score as s; print(s.__file__)')" \
    reward.custom_reward_function.name=compute_score
