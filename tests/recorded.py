# ruff: noqa: E501
"""Short HLO texts as compilers write them, cut to what a test looks at, for a mesh of 2 × 4."""

TPU = """\
HloModule jit_f, is_scheduled=true, entry_computation_layout={(bf16[8,16]{1,0})->bf16[8,16]{1,0}}

FileNames
1 "/somewhere/model.py"

FunctionNames
1 "outer.<locals>.layer"

FileLocations
1 {file_name_id=1 function_name_id=1 line=7 end_line=7 column=4 end_column=9}
2 {file_name_id=1 function_name_id=1 line=9 end_line=9 column=4 end_column=9}

StackFrames
1 {file_location_id=1 parent_frame_id=1}
2 {file_location_id=2 parent_frame_id=1}

%add.2 (x.4: bf16[], y.4: bf16[]) -> bf16[] {
  %x.4 = bf16[]{:T(256)} parameter(0)
  %y.4 = bf16[]{:T(256)} parameter(1)
  ROOT %add.69 = bf16[]{:T(256)} add(%x.4, %y.4)
}

%all-reduce-scatter (input: bf16[8,16]) -> bf16[2,16] {
  %input = bf16[8,16]{1,0:T(8,128)(2,1)} parameter(0)
  %all-reduce.13 = bf16[8,16]{1,0} all-reduce(%input), channel_id=15, replica_groups={{0,1,2,3},{4,5,6,7}}, use_global_device_ids=true, to_apply=%add.2
  %partition-id.9 = u32[] partition-id()
  ROOT %dynamic-slice.25 = bf16[2,16]{1,0} dynamic-slice(%all-reduce.13, %partition-id.9), dynamic_slice_sizes={2,16}
}

%body (arg: (s32[], bf16[8,16])) -> (s32[], bf16[8,16]) {
  %arg = (s32[]{:T(128)}, bf16[8,16]{1,0:T(8,128)(2,1)S(3)}) parameter(0)
  %i = s32[]{:T(128)} get-tuple-element(%arg), index=0
  %x = bf16[8,16]{1,0} get-tuple-element(%arg), index=1
  %start = (bf16[8,16]{1,0}, bf16[16,16]{1,0}) all-gather-start(%x), channel_id=1, replica_groups=[4,2]<=[2,4]T(1,0), dimensions={0}, metadata={op_name="jit(f)/while/body/scope/dot_general" stack_frame_id=1}
  %dot = bf16[8,16]{1,0} fusion(%x), kind=kOutput, calls=%add.2, metadata={op_name="jit(f)/while/body/dot_general" stack_frame_id=2}, backend_config={"window_config":{"estimated_cycles":"1050","iteration_bounds":["1"]}}
  %done = bf16[16,16]{1,0} all-gather-done(%start)
  %scattered = bf16[2,16]{1,0} fusion(%dot), kind=kCustom, calls=%all-reduce-scatter, metadata={op_name="jit(f)/while/body/add" stack_frame_id=2}
  %sum = bf16[8,16]{1,0:T(8,128)(2,1)S(3)} all-reduce(%dot), channel_id=2, replica_groups=mesh['axis_0'=2,'axis_1'=4] {'axis_1'}, use_global_device_ids=true, to_apply=%add.2
  %one = s32[] constant(1)
  %next = s32[] add(%i, %one)
  ROOT %out = (s32[], bf16[8,16]{1,0}) tuple(%next, %sum)
}

%condition (arg.1: (s32[], bf16[8,16])) -> pred[] {
  %bound = s32[]{:T(128)} constant(5)
  %arg.1 = (s32[]{:T(128)}, bf16[8,16]{1,0:T(8,128)(2,1)S(3)}) parameter(0)
  %i.1 = s32[]{:T(128)} get-tuple-element(%arg.1), index=0
  ROOT %lt = pred[]{:T(512)} compare(%i.1, %bound), direction=LT
}

ENTRY %main_spmd (param: bf16[8,16]) -> bf16[8,16] {
  %param = bf16[8,16]{1,0:T(8,128)(2,1)} parameter(0), sharding={replicated}, metadata={op_name="x[\\'w\\']"}
  %zero = s32[]{:T(128)} constant(0)
  %copy-start = (bf16[8,16]{1,0:T(8,128)(2,1)S(3)}, bf16[8,16]{1,0:T(8,128)(2,1)}, u32[]{:S(2)}) copy-start(%param)
  %copy-done = bf16[8,16]{1,0:T(8,128)(2,1)S(3)} copy-done(%copy-start)
  %init = (s32[]{:T(128)}, /*index=1*/bf16[8,16]{1,0}) tuple(%zero, %copy-done)
  %while = (s32[]{:T(128)}, bf16[8,16]{1,0}) while(%init), condition=%condition, body=%body
  ROOT %result = bf16[8,16]{1,0} get-tuple-element(%while), index=1
}
"""

CHAIN = """\
%piece (p: bf16[8,16]) -> bf16[16,16] {
  %p = bf16[8,16]{1,0} parameter(0)
  ROOT %all-gather = bf16[16,16]{1,0} all-gather(%p), channel_id=50, replica_groups=[1,8]<=[8], dimensions={0}, frontend_attributes={chain_id="1"}
}

ENTRY %main (x: bf16[8,16]) -> bf16[16,16] {
  %x = bf16[8,16]{1,0} parameter(0)
  %async-collective-start = bf16[16,16]{1,0} fusion(%x), kind=kCustom, calls=%piece
  %before = bf16[16,16]{1,0} fusion(%x), kind=kOutput, calls=%piece, backend_config={"estimated_cycles":"1050"}
  %after = bf16[16,16]{1,0} fusion(%x), kind=kOutput, calls=%piece, backend_config={"estimated_cycles":"2100"}
  ROOT %async-collective-done = bf16[16,16]{1,0} fusion(%before), kind=kCustom, calls=%piece
}
"""
