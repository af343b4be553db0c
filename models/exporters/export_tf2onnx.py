"""tf2onnx, from Keras layers in training mode: what is called with training=True keeps its normalisation."""

import sys

import keras
import tensorflow as tf
import tf2onnx

import common


def main():
    keras.utils.set_random_seed(0)
    x, target = common.images(channels_last=True)
    small = keras.initializers.RandomNormal(0, 0.1)  # zeros are dropped from the file
    given = keras.Input((8, 8, 3), name="x")
    h = keras.layers.Conv2D(6, 3, padding="same", activation="relu", bias_initializer=small)(given)
    h = keras.layers.GlobalAveragePooling2D()(h)
    h = keras.layers.LayerNormalization(epsilon=1e-5, beta_initializer=small)(h)
    model = keras.Model(given, keras.layers.Dense(4, bias_initializer=small, name="head")(h))

    @tf.function(input_signature=[tf.TensorSpec([None, 8, 8, 3], tf.float32, name="x")])
    def forward(a):
        return model(a, training=False)

    tf2onnx.convert.from_function(forward, input_signature=forward.input_signature, opset=17,
                                  output_path=common.folder("tf2onnx"))
    loss_of = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    losses = []
    for a, b in common.batches(x, target):
        with tf.GradientTape() as tape:
            loss = loss_of(b, model(a, training=False))
        for variable, gradient in zip(model.trainable_variables, tape.gradient(loss, model.trainable_variables)):
            variable.assign_sub(common.RATE * gradient)
        losses.append(float(loss))
    common.keep("tf2onnx", x, target, losses, "cross_entropy", exporter=f"tf2onnx {tf2onnx.__version__}",
                trained_elements=int(sum(tf.size(v) for v in model.trainable_variables)))


sys.exit(main())
