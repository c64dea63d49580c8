#!/bin/sh
# Training with OpenRLHF on puzzles, with the judge as reward; puzzles.jsonl comes from `archive export --format trl`.
selfplay judge --socket /tmp/judge.sock &  # all reward threads share one judge
export SELFPLAY_JUDGE=/tmp/judge.sock
python -m openrlhf.cli.train_ppo_ray --pretrain "${1:-Qwen/Qwen2.5-Coder-0.5B-Instruct}" \
    --prompt_data puzzles.jsonl --input_key prompt --label_key puzzle --apply_chat_template \
    --remote_rm_url "$(python -c 'import selfplay.adapters.openrlhf_reward as r; print(r.__file__)')"
kill %1
