#!/usr/bin/env bash
# GRPO with OpenRLHF 0.11 on puzzles, with the judge as reward; puzzles.jsonl comes from
# `selfplay archive export … --format trl`.
selfplay judge --socket /tmp/judge.sock &  # all reward threads share one judge
trap "kill $!" EXIT
export SELFPLAY_JUDGE=/tmp/judge.sock
python -m openrlhf.cli.train_ppo_ray --actor.model_name_or_path "${1:-Qwen/Qwen2.5-Coder-0.5B-Instruct}" \
    --data.prompt_dataset puzzles.jsonl --data.input_key prompt --data.label_key puzzle --data.apply_chat_template \
    --reward.remote_url "$(python -c 'import selfplay.adapters.openrlhf_reward as r; print(r.__file__)')" \
    --algo.advantage.estimator group_norm --rollout.n_samples_per_prompt 8 --rollout.batch_size 64 \
    --actor.num_gpus_per_node 1 --ref.num_gpus_per_node 1 --vllm.num_engines 1 --train.colocate_all \
    --vllm.enable_sleep --ds.enable_sleep --vllm.gpu_memory_utilization 0.5
